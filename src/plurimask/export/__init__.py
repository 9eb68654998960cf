"""What leaves plurimask: tables, pictures, and the files of a segmented image."""
