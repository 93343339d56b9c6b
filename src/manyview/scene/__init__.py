"""What a user gets: images, cameras, points and confidences of one scene, kept on disk and exported."""
