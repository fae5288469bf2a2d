"""Small local servers that speak like the services we use, for the demo and the tests: the real clients talk to them."""
