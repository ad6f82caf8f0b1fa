"""Settings, config files and dry runs."""
