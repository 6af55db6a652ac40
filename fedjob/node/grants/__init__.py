"""Grants: the owner's decisions on whose plans may run on which data, and the rules that apply them."""
