"""Events to Apache Kafka."""
