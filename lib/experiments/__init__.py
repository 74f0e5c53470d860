"""Where it runs: the store, the engine that computes what it lacks, workers, clusters, and estimates of time.

May import the science (`lib`), never the companion.
"""
