// Package hashes is the block hash table of a volume: for each block a hash of what
// it held at one version, so that silent changes of a plain head can be found
// without a replica.
//
// A table is as of one version, which its owner keeps; it says nothing of a block
// that was written between that version and what it is compared with, and the
// owner gives those sets (View). So writes of a live volume never touch it. An
// Update brings it to a newer version with content that somebody reads or receives
// anyway: entries of blocks that changed and were not seen become unknown. A page
// that an update wrote bears its stamp; as long as the owner has not put the
// update's version on record, the page is believed only for blocks that nobody
// wrote since the version on record.
//
// It promises that an entry, where View gives one, is the hash of what the block
// held, whatever was cut off, lost or torn: pages carry a checksum of their
// identity and content, and one that is bad, or not there, knows nothing.
//
// What can go wrong: errors of the file. Then the owner begins a new table; nothing
// but time is lost. A disk that gives back an old page after it was synced can make
// a good block look bad; it never makes a bad one look good but by the hash of what
// it once held.
//
// The layout is written down in docs/formats/volume.md, "hash-N".
package hashes
