// Package scsi speaks the SCSI command set for sequential devices: it builds
// command blocks, reads sense data and parameter lists, and carries commands to a
// device through a Transport. Sg is the transport of Linux's generic SCSI nodes;
// Watched puts a limit of time on any transport.
//
// # What it promises
//
// A command block has the bytes that the SCSI stream commands (SSC-3 and later)
// and primary commands (SPC-4) say. A check condition is an answer, not an error:
// the sense comes back as it was. Errors are about carrying: the device is not
// there, the host adapter failed, the command did not end.
//
// # What can go wrong
//
// A device that does not answer: Watched gives the command up when it has taken
// longer than its limit, which is longer than the drive's own (Limit), or when the
// context ends; the error says which command and since when. The device may still
// be at work then: the next command waits for the end of that one, at most until
// the same limit. Host adapters are known to tell wrong residual lengths: Received
// is what they say, and who needs the length of a short record asks for the sense.
//
// Nothing here knows what is on a tape; that is system/tape/drive.
package scsi
