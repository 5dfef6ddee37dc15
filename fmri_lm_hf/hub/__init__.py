"""Publishing on the Hugging Face Hub, fetching from it, and checking what was fetched."""
