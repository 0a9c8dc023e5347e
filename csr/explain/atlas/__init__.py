"""Every prototype with the training regions behind it."""
