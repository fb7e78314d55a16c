# Loads the Vagrantfile without Vagrant and prints as JSON what it asks for: each machine, its settings for each provider,
# its provisioners. HOST_CPU and HOST_OS say what computer this is; USABLE which providers Vagrant could use.
#
#   ruby tests/vagrant_stub.rb VAGRANTFILE [ARGUMENTS OF vagrant...]
require "json"
require "rbconfig"

RbConfig::CONFIG["host_cpu"] = ENV.fetch("HOST_CPU", "x86_64")
RbConfig::CONFIG["host_os"] = ENV.fetch("HOST_OS", "linux-gnu")

# Whatever is set or called is kept under its name: a setting as its value, a call as the list of its arguments.
class Recorder
  attr_reader :kept

  def initialize
    @kept = {}
  end

  def method_missing(name, *arguments, **options)
    return @kept[name.to_s.chomp("=")] = arguments.first if name.end_with?("=")
    return @kept[name.to_s] ||= {} if arguments.empty? && options.empty?

    (@kept[name.to_s] ||= []) << [*arguments, options]
  end

  def respond_to_missing?(*)
    true
  end
end

class Machine < Recorder
  def provider(name)
    settings, override = Recorder.new, Recorder.new
    yield settings, Struct.new(:vm).new(override)
    (@kept["providers"] ||= {})[name] = { settings: settings.kept, override: override.kept }
  end

  def define(name, **options)
    machine = Machine.new
    yield Struct.new(:vm).new(machine)
    (@kept["machines"] ||= []) << { name: name, **options, **machine.kept }
  end
end

module Vagrant
  Kind = Struct.new(:usable) do
    def usable?(_raise_error)
      usable
    end
  end
  Manager = Struct.new(:providers)

  # What a plugin of ours stands on; it is declared, and nothing of it is called.
  class Plugin
    def self.name(*); end

    def self.config(*); end

    def self.provisioner(*); end

    def self.manager
      usable = ENV.fetch("USABLE", "virtualbox").split(",")
      names = %i[virtualbox libvirt vmware_desktop parallels qemu docker hyperv]
      Manager.new(names.to_h { |name| [name, [Kind.new(usable.include?(name.to_s)), {}]] })
    end
  end

  def self.configure(version)
    raise "version #{version}" unless version == "2"

    machine = Machine.new
    yield Struct.new(:vm).new(machine)
    puts JSON.generate(machine.kept)
  end

  def self.plugin(_version, part = nil)
    part ? Class.new : Plugin
  end
end

load ARGV.shift
