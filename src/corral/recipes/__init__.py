"""Complete experiments as YAML, shipped with the package."""
