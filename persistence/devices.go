package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
)

// KnowDevice records that a user logged in with a device. It reports whether the device is new and the
// user has other known devices.
func (s *Store) KnowDevice(ctx context.Context, user auth.UserID, device string, at time.Time) (isNews bool, err error) {
	row := deviceRow{UserID: user, Device: device, CreatedAt: at}
	added, err := changed(s.write.NewInsert().Model(&row).On("CONFLICT (user_id, device) DO NOTHING").Exec(ctx))
	if err != nil || !added {
		return false, s.fault("insert device", err)
	}
	n, err := s.read.NewSelect().Model((*deviceRow)(nil)).Where("user_id = ?", user).Count(ctx)
	return n > 1, s.fault("count devices", err)
}

type deviceRow struct {
	bun.BaseModel `bun:"table:known_devices,alias:d"`

	UserID    auth.UserID `bun:"user_id,pk"`
	Device    string      `bun:"device,pk"`
	CreatedAt time.Time   `bun:"created_at"`
}

// ForgetDevices deletes the devices that a user logged in with.
func (s *Store) ForgetDevices(ctx context.Context, user auth.UserID) error {
	_, err := s.write.NewDelete().Model((*deviceRow)(nil)).Where("user_id = ?", user).Exec(ctx)
	return s.fault("forget devices", err)
}
