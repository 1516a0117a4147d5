// Package posix_test holds the suite of a mounted tape as a POSIX file system:
// cases in the manner of pjdfstest for what LTFS can hold, random operations
// against a model in the manner of fsx, and trees copied there and back with the
// tools people use. What POSIX says and an ordinary file system does is run on one
// too, so that a case that is wrong itself is noticed.
//
// It needs /dev/fuse and the right to mount. `make posix` runs the random
// operations for five minutes; -fsx 1h for as long as wanted.
package posix_test
