"""The code that a checkpoint can carry: configurations, models, processors, pipelines, and the reading of scans.

The modules import only each other, so that a repository on the Hub can carry them as its own code.
"""
