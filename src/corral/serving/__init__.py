"""Recommendations for raw ids; bundles saved whole or not at all."""
