"""Events to Amazon Kinesis Data Streams."""
