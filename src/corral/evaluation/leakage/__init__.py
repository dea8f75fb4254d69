"""Checks for leaks: does an input know what it should not, does a part of the split know another?"""
