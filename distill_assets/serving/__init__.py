"""Search with the champion."""
