package bundled

import (
	"fmt"
	"os"
	"syscall"
)

// checkPrivate refuses a folder in which another user could change what this one starts.
func checkPrivate(folder string) error {
	info, err := os.Lstat(folder)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s must be a folder of this user's that nobody else may write to", folder)
	}
	return nil
}
