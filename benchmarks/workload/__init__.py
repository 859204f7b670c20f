"""The handlers of the benchmark, as a Django app that only ``benchmarks.settings`` installs."""
