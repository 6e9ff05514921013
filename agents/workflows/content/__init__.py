"""The workflow `content`: a brief becomes a published piece; what that had, guides the next."""
