"""What runs at the site, before anything is installed there: the standard library alone.

These modules and server/errors.py are packed into install.pyz; `verbatim verify` and the server use them too.
"""
