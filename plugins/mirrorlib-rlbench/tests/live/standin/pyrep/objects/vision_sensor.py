import standin_control as control


class VisionSensor:
    def __init__(self, name_or_handle):
        camera = {"over_shoulder_left": "left_shoulder", "over_shoulder_right": "right_shoulder"}
        name = name_or_handle.removeprefix("cam_")
        self.camera = camera.get(name, name)
        self.scene = control.running.scene
        if self.camera not in self.scene.sensors():
            raise RuntimeError(f"no object {name_or_handle}")
        self.image = None

    def handle_explicitly(self):
        self.image = self.scene.draw(self.camera)[0] / 255

    def capture_rgb(self):
        return self.image
