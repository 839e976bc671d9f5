"""Test suites that every back end of a contract passes; subclass one in your own tests."""
