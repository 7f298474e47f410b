"""What a run knows about itself: as plain values, a page and plots."""
