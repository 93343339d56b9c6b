"""What people look at: HTML pages that need nothing else, and the pictures and charts in them."""
