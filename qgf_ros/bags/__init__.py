"""rosbag2 files message by message, whole or damaged; no ROS needed. Needs rosbags, lz4, zstd."""
