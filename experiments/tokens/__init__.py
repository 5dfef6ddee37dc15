"""What the tokens of a tokenizer are worth: ``python -m experiments.tokens report`` measures them on scans.

`readings` reads scans as a tokenizer does, `measures` has the measures, `report` puts them into tables and pages.
"""
