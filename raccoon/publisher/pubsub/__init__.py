"""Events to Google Pub/Sub."""
