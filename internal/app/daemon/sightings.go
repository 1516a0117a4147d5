package daemon

import (
	"maps"
	"sync"
	"time"

	"cairn"
	"cairn/client"
)

// sight is what a job last saw at its peer, in short: what status needs of each
// dataset, under the peer's names.
type sight struct {
	place    string
	seen     time.Time
	datasets map[string]glimpse
}

// glimpse is one dataset at a peer.
type glimpse struct {
	newest cairn.VersionID
	at     time.Time // creation of the newest version
	count  int
	state  string
}

func newSight(place string) *sight {
	return &sight{place: place, seen: time.Now(), datasets: map[string]glimpse{}}
}

func (s *sight) add(l *cairn.Listing) {
	g := glimpse{count: len(l.Versions), state: l.Dataset.State.String()}
	if n := len(l.Versions); n > 0 {
		g.newest, g.at = l.Versions[n-1].VersionID, l.Versions[n-1].Created
	}
	s.datasets[l.Dataset.Name] = g
}

// addKept is add for a listing that was kept on disk.
func (s *sight) addKept(l client.Listing) {
	g := glimpse{count: len(l.Versions), state: l.State}
	if n := len(l.Versions); n > 0 {
		v := l.Versions[n-1]
		guid, err := cairn.ParseGUID(v.GUID)
		if err == nil {
			g.newest = cairn.VersionID{Name: v.Name, GUID: guid}
		}
		g.at = v.Created
	}
	s.datasets[l.Dataset] = g
}

// sightings are the last sight of each job; a sight is not changed once it is here.
type sightings struct {
	mu    sync.Mutex // guards byJob
	byJob map[string]*sight
}

func (s *sightings) set(job string, next *sight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byJob == nil {
		s.byJob = map[string]*sight{}
	}
	s.byJob[job] = next
}

func (s *sightings) all() map[string]*sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.byJob)
}
