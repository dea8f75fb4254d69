"""One verb a file; the only place where names become classes."""
