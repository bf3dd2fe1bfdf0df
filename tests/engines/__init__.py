"""Real brokers that tests and benchmarks run against."""
