"""Proof that every copy equals the source: the certificate of each batch, and its verification from storage."""
