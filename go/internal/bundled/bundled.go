// Package bundled turns the sidecar that came with this package into a file that can be started.
package bundled

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrNone: the package brings no sidecar for this platform.
var ErrNone = errors.New("this package brings no sidecar for this platform")

// Path is the path of the sidecar as an executable file in the user's cache folder, under a name that has its hash, written
// there unless a run before did so.
func Path() (string, error) {
	content := Binary()
	if content == "" {
		return "", ErrNone
	}
	folder, err := privateFolder()
	if err != nil {
		return "", err
	}
	return write(folder, content)
}

// privateFolder is a folder that only this user can write to. A user without a home has one in the folder for temporary files.
func privateFolder() (string, error) {
	if cache, err := os.UserCacheDir(); err == nil {
		folder := filepath.Join(cache, "machnet", "bin")
		if err := os.MkdirAll(folder, 0o700); err == nil {
			return folder, checkPrivate(folder)
		}
	}
	folder := filepath.Join(os.TempDir(), fmt.Sprintf("machnet-%d-bin", os.Getuid()))
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return folder, checkPrivate(folder)
}

// write puts the content there at once or not at all: many processes may do so at the same time.
func write(folder, content string) (string, error) {
	sum := sha256.Sum256([]byte(content))
	path := filepath.Join(folder, "machnet-"+hex.EncodeToString(sum[:16]))
	if present, err := os.ReadFile(path); err == nil && string(present) == content {
		return path, os.Chmod(path, 0o700)
	}
	file, err := os.CreateTemp(folder, "new-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(file.Name()) // Fails, once it has its name.
	_, err = file.WriteString(content)
	if err == nil {
		err = file.Chmod(0o700)
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	return path, err
}
