"""What the backends share: hand-over, budget, order and delivery accounting."""
