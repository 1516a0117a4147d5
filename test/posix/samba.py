# Writes a file to an SMB share and, when told so, asks the server to flush it, as
# FlushFileBuffers of Windows programs does; then says so and keeps the file open.
import sys

from impacket.smb3structs import (FILE_NON_DIRECTORY_FILE, FILE_OVERWRITE_IF, FILE_SHARE_READ,
                                  FILE_READ_DATA, FILE_WRITE_DATA)
from impacket.smbconnection import SMBConnection

port, name, flush = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "flush"
connection = SMBConnection("127.0.0.1", "127.0.0.1", sess_port=port, timeout=60)
connection.login("", "")
tree = connection.connectTree("tape")
file = connection.createFile(tree, name, desiredAccess=FILE_READ_DATA | FILE_WRITE_DATA, shareMode=FILE_SHARE_READ,
                             creationOption=FILE_NON_DIRECTORY_FILE, creationDisposition=FILE_OVERWRITE_IF)
data = b"promised" * 4000
at = 0
while at < len(data):
    connection.writeFile(tree, file, data[at:at + 16000], at)
    at += 16000
if flush:
    connection.getSMBServer().flush(tree, file)
print("written", flush=True)
sys.stdin.read()
