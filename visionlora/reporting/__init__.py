"""Many runs read, compared and shown; nothing here trains, and nothing imports torch."""
