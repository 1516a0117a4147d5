package drive

import "syscall"

// aroundCache opens a file whose writes go around the page cache.
const aroundCache = syscall.O_DIRECT
