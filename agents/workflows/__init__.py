"""The workflows that ship with Mainspring: data and small functions over the floors below."""
