"""All that travels with a checkpoint: configurations, models, processors, and how they read scans.

The modules import only each other, so that a repository on the Hub can carry them as its own code.
"""
