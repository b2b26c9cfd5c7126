"""What every kernel stands on, compiled or written once: arrays, threads, the chunk driver, dispatch."""
