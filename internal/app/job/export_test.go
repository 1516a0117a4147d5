package job

// SetFileBytes makes logs rotate earlier.
func (s *Store) SetFileBytes(n int64) { s.maxFile = n }
