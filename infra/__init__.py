"""Data that a running system needs: profiles, policy and the shipped support desk."""
