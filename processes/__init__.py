"""What every long-lived process relies on: threads that must not die, children that must not stay, a watchdog."""
