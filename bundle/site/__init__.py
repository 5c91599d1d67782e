"""The installer, which runs at the site before anything is installed: standard library only.

These modules and sealed/ are packed into install.pyz.
"""
