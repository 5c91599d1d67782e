"""What runs at the site, before anything is installed there: the standard library alone.

These modules and sealed/ are packed into install.pyz.
"""
