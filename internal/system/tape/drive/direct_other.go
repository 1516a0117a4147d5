//go:build !linux

package drive

// aroundCache is nothing here: writes go through the page cache.
const aroundCache = 0
