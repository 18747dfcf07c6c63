"""Moved to modeling/editors/diffusion; what is here keeps an old command alive for a release."""
