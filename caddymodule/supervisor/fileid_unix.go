//go:build unix

package supervisor

import (
	"io/fs"
	"syscall"
)

func fileID(info fs.FileInfo) (device, inode uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev), st.Ino
	}
	return 0, 0
}
