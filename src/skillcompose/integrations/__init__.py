"""Thin bridges to other libraries, each behind its extra."""
