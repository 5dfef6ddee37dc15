"""Questions about one scan: what is asked (`Query`), its truth, and how people say it."""
