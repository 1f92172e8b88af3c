//go:build linux && (amd64 || arm64) && !machnet_pkgconfig

package bundled

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestManyWritersAtOnceLeaveOneWholeFile(t *testing.T) {
	folder, content := t.TempDir(), string(make([]byte, 1<<20))+"end"
	var all sync.WaitGroup
	for range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			path, err := write(folder, content)
			if err != nil {
				t.Error(err)
				return
			}
			if present, err := os.ReadFile(path); err != nil || string(present) != content {
				t.Errorf("%s has %d bytes: %v", path, len(present), err)
			}
		}()
	}
	all.Wait()
	left, err := os.ReadDir(folder)
	must(t, err)
	if len(left) != 1 {
		t.Errorf("there are %v", left)
	}
}

func TestAFileThatWasCutShortIsWrittenAnew(t *testing.T) {
	folder := t.TempDir()
	path, err := write(folder, "whole")
	must(t, err)
	must(t, os.WriteFile(path, []byte("who"), 0o600))
	again, err := write(folder, "whole")
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if content, _ := os.ReadFile(path); again != path || string(content) != "whole" || info.Mode().Perm() != 0o700 {
		t.Errorf("%s has %q and %v", again, content, info.Mode())
	}
}

func TestTwoReleasesLieBesideEachOther(t *testing.T) {
	folder := t.TempDir()
	one, err := write(folder, "one")
	must(t, err)
	two, err := write(folder, "two")
	must(t, err)
	if one == two {
		t.Error("both are", one)
	}
}

func TestAFolderThatOthersMayWriteToIsRefused(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	folder := filepath.Join(cache, "machnet", "bin")
	must(t, os.MkdirAll(folder, 0o700))
	must(t, os.Chmod(folder, 0o777))
	if path, err := Path(); err == nil {
		t.Errorf("%s was written", path)
	}
}

func TestAUserWithoutAHomeHasTheSidecarToo(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	t.Setenv("TMPDIR", t.TempDir())
	path, err := Path()
	must(t, err)
	if content, err := os.ReadFile(path); err != nil || string(content) != Binary() || content == nil {
		t.Errorf("%s has %d bytes: %v", path, len(content), err)
	}
}
