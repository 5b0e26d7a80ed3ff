"""What owns the parameters: optimizer, schedule, the trainer and its half of an exchange."""
