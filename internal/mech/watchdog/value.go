package watchdog

import "context"

// Value is Run for work that makes a value. The value crosses to the caller only
// when fn returned: what abandoned work still makes is never seen.
func Value[T any](ctx context.Context, p *Progress, o Options, fn func(ctx context.Context) (T, error)) (value T, err error, abandoned bool) {
	made := make(chan T, 1)
	err, abandoned = Run(ctx, p, o, func(ctx context.Context) error {
		v, err := fn(ctx)
		made <- v
		return err
	})
	if abandoned {
		return value, err, true
	}
	select {
	case value = <-made:
	default: // refused before it began
	}
	return value, err, false
}
